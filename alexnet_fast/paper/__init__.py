"""The paper's claims, tried on other data: `alexnet-fast paper`."""
