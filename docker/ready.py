"""Asks the API in this container whether it is ready. Its certificate need not name this address."""

import httpx2

from service.settings import Settings

settings = Settings()
scheme = "https" if settings.tls_certificate else "http"
url = f"{scheme}://127.0.0.1:{settings.port}/readyz"
httpx2.get(url, timeout=4, verify=False, trust_env=False).raise_for_status()
