"""What makes a molecule the one it is: its bonds and its stereochemistry, and looks at both."""
