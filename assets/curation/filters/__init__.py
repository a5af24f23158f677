"""The filters that judge one picture at a time, one class per file, cheapest first."""
