"""Files of models: archives, published files, and what reading them safely takes."""
