"""Every bench, one after the other: `make bench`."""

from tests.bench import store

store.main()
