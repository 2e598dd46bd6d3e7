"""Files of simulated people, and what is known of them."""
