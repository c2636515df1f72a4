"""Where a request comes from: addresses, what proxies say, origins of pages."""
