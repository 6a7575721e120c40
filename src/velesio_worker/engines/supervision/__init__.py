"""One actor per engine: its process, its leases, its end, its orphans."""
