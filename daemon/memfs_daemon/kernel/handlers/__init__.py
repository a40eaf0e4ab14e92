"""What each request of the kernel means as a call of `Operations`."""
