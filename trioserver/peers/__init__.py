"""Where a request comes from: addresses, headers of proxies, origins of pages."""
