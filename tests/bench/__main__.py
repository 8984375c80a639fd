"""Every bench, one after the other: `make bench`. The arguments are those of the relay's."""

import sys

from tests.bench import node, scrape, steer, store
from tests.bench.relay import __main__ as relay

relay.main()
del sys.argv[1:]  # the others take none of these
store.main()
scrape.main()
steer.main()
node.main()
