"""What a series is: acquisition, geometry, classification, grouping."""
