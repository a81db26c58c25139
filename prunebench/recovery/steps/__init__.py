"""The recoveries, one file each, found by name. They load no torch before they are used."""
