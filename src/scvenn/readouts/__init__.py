"""What a trained model tells."""
