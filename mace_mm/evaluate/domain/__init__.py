"""What a model was not made for: geometry, charge, expected errors."""
