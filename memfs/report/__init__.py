"""The report of a mount: what it says in sentences, its charts, and the page that has both."""
