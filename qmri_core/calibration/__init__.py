"""What must be known to compare signals in absolute terms."""
