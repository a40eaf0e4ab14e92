"""What can be measured of a mount: the table of metrics, counters, histograms, rings."""
