"""What a training starts from: new weights or those of a base."""
