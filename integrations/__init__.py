"""One module for each trainer; importing one whose trainer is missing says which extra to install."""
