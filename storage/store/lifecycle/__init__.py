"""What happens to a store as a whole: checked, forgotten in part, given back, brought up to date."""
