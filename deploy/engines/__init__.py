"""One engine interface, its backends, and the way to open one."""
