"""The methods of the control socket by subject, for server and client; `table` has all of them."""
