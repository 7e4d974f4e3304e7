"""Pages and pictures of what the stages found."""
