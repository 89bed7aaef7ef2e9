"""Programs beside the trainer."""
