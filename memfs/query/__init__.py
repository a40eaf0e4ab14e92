"""The filter language of queries: pure, without files, tables or clocks."""
