"""What programs ask of a mount: one typed client for the command line and for Python."""
