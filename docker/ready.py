"""Asks the API in this container whether it is ready. Its certificate need not name this address."""

import os

import httpx2

scheme = "https" if os.environ.get("WARPTUNE_TLS_CERTIFICATE") else "http"
url = f"{scheme}://127.0.0.1:{os.environ.get('WARPTUNE_PORT', '8000')}/readyz"
httpx2.get(url, timeout=4, verify=False, trust_env=False).raise_for_status()
