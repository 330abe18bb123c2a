"""From classified objects to tables of counts."""
