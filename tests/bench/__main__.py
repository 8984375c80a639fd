"""Every bench, one after the other: `make bench`."""

from tests.bench import node, steer, store

store.main()
steer.main()
node.main()
