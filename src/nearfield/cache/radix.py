"""The prefix index as a compressed radix tree over whole pages, with least-recently-used eviction.

An edge is a run of pages, kept in the node it leads to and named in its parent by the tokens of its
first page. With pages of 2 tokens, after [1 2 3 4 5 6] in pages a b c, and [1 2 7 8] in pages d e:

    root --(1 2)--> [a] --(3 4)--> [b c]        a holds tokens [0, 2) of both; d was a duplicate and
                       --(7 8)--> [e]           stays its owner's; b, c hold [2, 6); e holds [2, 4)

A walk splits the run it leaves midway, so that a node is used as a whole and one clock reading per
node is exact for each of its pages. A node with one child is therefore legal: the halves may have
been used at different times. Eviction cuts tails off leaves, oldest first, from a heap of leaves that is
put right only as entries are popped: a node has one entry at most, which may be out of date.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from nearfield.cache.pages import PagePool
from nearfield.core.types import PageId, TokenId

Key = tuple[TokenId, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A run of pages and the tokens in them; a tenant's root has neither, and no parent."""

    tenant: str
    parent: "_Node | None"
    tokens: list[TokenId] = field(default_factory=list)
    pages: list[PageId] = field(default_factory=list)
    children: "dict[Key, _Node]" = field(default_factory=dict)
    last_used: int = 0
    queued: bool = False


class RadixIndex:
    """A PrefixIndex (see there what each call may change) on the pages of `pool`."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._roots: dict[str, _Node] = {}
        self._cached = 0
        self._clock = 0
        self._leaves: list[tuple[int, int, _Node]] = []  # (last_used, tie-break, node)
        self._entries = 0

    @property
    def cached(self) -> int:
        return self._cached

    @property
    def evictable(self) -> int:
        """Exact: pages with two owners are all in the tree, and nobody owns a page below one he does not."""
        return self._cached - self._pool.shared

    def match(self, tokens: Sequence[TokenId], tenant: str) -> list[PageId]:
        """See PrefixIndex. Splits the last node where only its beginning matches. O(tokens)."""
        root = self._roots.get(tenant)
        if root is None:
            return []
        return [page for node in self._walk(root, tokens) for page in node.pages]

    def insert(self, tokens: Sequence[TokenId], pages: Sequence[PageId], tenant: str) -> None:
        """See PrefixIndex. A leaf grows in place; elsewhere the new pages become a leaf. O(tokens).

        Raises RuntimeError when the tokens do not fill the pages exactly.
        """
        if len(tokens) != len(pages) * self._page_size:
            raise RuntimeError(f"{len(tokens)} tokens do not fill {len(pages)} pages of {self._page_size}")
        if not pages:
            return
        root = self._roots.setdefault(tenant, _Node(tenant, None))
        path = self._walk(root, tokens)
        known = sum(len(node.pages) for node in path)
        if known < len(pages):
            self._append(path[-1] if path else root, tokens[known * self._page_size:], pages[known:])

    def evict(self, count: int) -> int:
        """See PrefixIndex. O((pages freed + leaves in use that are older) x log leaves)."""
        freed = 0
        kept = []
        while freed < count and self._leaves:
            used, _, node = heappop(self._leaves)
            node.queued = False
            if node.children:
                continue
            if used < node.last_used:
                self._queue(node)
                continue
            freed += self._cut(node, count - freed)
            kept.append(node)
        for node in kept:
            if node.pages:
                self._queue(node)
        return freed

    def references(self) -> Mapping[PageId, int]:
        return {page: 1 for node in self._nodes() for page in node.pages}

    def check(self) -> None:
        """Raise RuntimeError unless runs, keys, clocks, the heap and the counters are in order. O(cached)."""
        pages = [page for node in self._nodes() for page in node.pages]
        if not len(set(pages)) == len(pages) == self._cached:
            raise RuntimeError(f"the prefix tree counts {self._cached} pages and holds {sorted(pages)}")
        queued = [node for _, _, node in self._leaves]
        if len(set(queued)) != len(queued) or not all(node.queued for node in queued):
            raise RuntimeError("a node stands in the heap of leaves twice, or unmarked")
        for node in self._nodes():
            self._check_node(node)
        unshared = sum(self._pool.refcount(page) == 1 for page in pages)
        if unshared != self.evictable:
            raise RuntimeError(f"{unshared} pages of the prefix tree can be evicted, not {self.evictable}")

    def _walk(self, root: _Node, tokens: Sequence[TokenId]) -> list[_Node]:
        """Follow `tokens` down from a root and mark the nodes on the way as used; the last may be split."""
        self._clock += 1
        size = self._page_size
        path: list[_Node] = []
        node, start = root, 0
        while (child := node.children.get(tuple(tokens[start:start + size]))) is not None:
            common = self._common_pages(child, tokens, start)
            node = child if common == len(child.pages) else self._split(child, common)
            node.last_used = self._clock
            path.append(node)
            start += common * size
        return path

    def _common_pages(self, node: _Node, tokens: Sequence[TokenId], start: int) -> int:
        """How many whole pages of the node's run `tokens` agree with from `start` on, by bisection."""
        size = self._page_size
        low, high = 0, min(len(node.pages), (len(tokens) - start) // size)
        middle = high  # most runs agree to their end: try that first
        while low < high:
            left, right = low * size, middle * size
            if node.tokens[left:right] == list(tokens[start + left:start + right]):
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        return low

    def _split(self, node: _Node, count: int) -> _Node:
        """Move the first `count` pages of a run to a new node above it, and return that one.

        The lower part keeps the node, so that its entry in the heap of leaves stays right.
        """
        cut = count * self._page_size
        upper = _Node(node.tenant, node.parent, node.tokens[:cut], node.pages[:count])
        self._parent(node).children[self._key(node)] = upper
        del node.tokens[:cut], node.pages[:count]
        upper.children[self._key(node)] = node
        node.parent = upper
        return upper

    def _append(self, node: _Node, tokens: Sequence[TokenId], pages: Sequence[PageId]) -> None:
        """Put new pages below `node`, which was just walked to, and retain them."""
        if node.children or node.parent is None:
            leaf = _Node(node.tenant, node, last_used=self._clock)
            node.children[tuple(tokens[:self._page_size])] = leaf
            node = leaf
        node.tokens.extend(tokens)
        node.pages.extend(pages)
        for page in pages:
            self._pool.retain(page)
        self._cached += len(pages)
        self._queue(node)

    def _cut(self, leaf: _Node, count: int) -> int:
        """Free up to `count` pages from the tail of a leaf, as far as nobody else owns them."""
        key = self._key(leaf)
        before = len(leaf.pages)
        while leaf.pages and before - len(leaf.pages) < count and self._pool.refcount(leaf.pages[-1]) == 1:
            self._pool.release(leaf.pages.pop())
        del leaf.tokens[len(leaf.pages) * self._page_size:]
        self._cached -= before - len(leaf.pages)
        if not leaf.pages:
            self._drop(leaf, key)
        return before - len(leaf.pages)

    def _drop(self, leaf: _Node, key: Key) -> None:
        parent = self._parent(leaf)
        del parent.children[key]
        if parent.children:
            return
        if parent.parent is None:
            del self._roots[parent.tenant]
        else:
            self._queue(parent)

    def _queue(self, leaf: _Node) -> None:
        if not leaf.queued:
            self._entries += 1
            heappush(self._leaves, (leaf.last_used, self._entries, leaf))
            leaf.queued = True

    def _key(self, node: _Node) -> Key:
        return tuple(node.tokens[:self._page_size])

    def _parent(self, node: _Node) -> _Node:
        if node.parent is None:
            raise RuntimeError(f"the root of tenant {node.tenant!r} was taken for a run of pages")
        return node.parent

    def _nodes(self) -> Iterator[_Node]:
        """All nodes but the roots. No recursion: a tree can be as deep as it has pages."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _check_node(self, node: _Node) -> None:
        parent = self._parent(node)
        owners = [self._pool.refcount(page) for page in node.pages]
        held_below = any(self._pool.refcount(child.pages[0]) > 1 for child in node.children.values())
        held = [count > 1 for count in owners] + [held_below]
        faults = {
            "has no page": not node.pages,
            "has tokens that do not fill its pages": len(node.tokens) != len(node.pages) * self._page_size,
            "is not found by its key": parent.children.get(self._key(node)) is not node,
            "was used after its parent": parent.parent is not None and node.last_used > parent.last_used,
            "is a leaf that can not be evicted": not node.children and not node.queued,
            "has an owner below it that does not own it": held != sorted(held, reverse=True),
        }
        for fault, found in faults.items():
            if found:
                raise RuntimeError(f"the node of pages {node.pages} in the prefix tree {fault}")
