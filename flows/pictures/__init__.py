"""What the report, an evaluation and a training draw."""
