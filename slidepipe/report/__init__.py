"""What people read: pages, charts and tables made from results."""
