"""What runs inside a sandbox: standard library only, and nothing of the rest of the package is mounted there."""
