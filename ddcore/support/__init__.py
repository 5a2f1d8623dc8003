"""What the science stands on and the paper says nothing about: files, readers, the machine."""
