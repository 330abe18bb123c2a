"""Tables counted from classified objects: counts, diversity, ranges, fossils per gram."""
