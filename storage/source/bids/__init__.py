"""What a NIfTI file holds, and what the BIDS tree around it says."""
