"""Does a manifold key help? A study that anyone can run again; see README.md."""
