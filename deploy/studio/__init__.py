"""The studio: a web page and an HTTP interface on the champion's engine, on this machine only by default."""
