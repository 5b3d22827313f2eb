"""The commands `fastmunit styles ...`, one file each."""
