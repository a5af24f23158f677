"""What everything stands on: settings, store, catalog, jobs, services."""
