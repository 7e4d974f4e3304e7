"""From photos to stored descriptors, and from stores to other stores."""
