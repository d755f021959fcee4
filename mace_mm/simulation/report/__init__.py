"""What a run looks like: analysis, pictures, page."""
