"""
Refill of a PCP from the zone: own fragments, whole blocks, chunks, single runs (rfc.md section 5, B-63).

The PCP's lock is held; the zone lock is taken here, once for all phases.
"""

from .. import names
from .fallback import NORMAL
from .memory import PB
from .pcp import PcpLists


class Refill(PcpLists):
    """The four phases of P-32. Each returns the pages it got in runs of at least the order asked for."""

    def refill(self, cpu: int, entries: int, order: int, mt: int, aflags: int) -> None:
        """P-32: ``entries`` << order pages. A phase runs only if some are missing."""
        if aflags & names.ALLOC_NOLOCK and not self.trylock():
            return
        self.count(holds_refill=1, refills=1)
        missing = entries << order
        if self.pcps[cpu].high >= self.pcps[cpu].batch:  # else the PCP is disabled: phase 3, one entry
            if self.policy.phase0 == "on" and order < PB:
                missing -= self._recover(cpu, missing, order, mt, aflags)
            missing -= self._claim_blocks(cpu, missing, mt, aflags)
            if self.policy.phase2 == "on" and order < PB:
                missing -= self._take_chunks(cpu, missing, order, mt, aflags)
        self._take_runs(cpu, missing, order, mt, aflags)

    def _cma_too(self, mt: int, aflags: int) -> bool:
        """cma=fixed: whether phases 0 and 2 serve this request from C blocks too (P-33, P-36)."""
        return self.policy.cma == "fixed" and mt == names.MOVABLE and bool(aflags & names.ALLOC_CMA)

    def _recover(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 0, P-33: walk the own blocks that have fragments in the zone; those of another type stay linked."""
        types = {mt, names.CMA} if self._cma_too(mt, aflags) else {mt}
        got = 0
        self.count(walks=1)
        for index in list(self.pcps[cpu].owned):
            if got >= missing:
                break
            self.count(walked_blocks=1)
            if self.blocks[index].effective in types:
                got += self._recover_block(cpu, index, order, mt)
            else:
                self.count(skipped_blocks=1)
        return got

    def _recover_block(self, cpu: int, index: int, order: int, mt: int) -> int:
        """T3: the block keeps nothing in the zone; chunks smaller than the order come along uncounted."""
        chunks = [(pfn, chunk_order, 1 << chunk_order) for pfn, chunk_order in self.chunks_of(index)]
        for pfn, chunk_order, nr_pages in chunks:
            self.account(-nr_pages, self.remove(pfn).type)
            self.count(pages_moved=nr_pages, phase0_pages=nr_pages)
            self.pcp_put(cpu, pfn, chunk_order, mt, mark=True, tail=True)
            self.emit("recover", pfn, chunk_order)
        # The scan steps over a chunk as a whole, and over everything else page by page.
        self.count(scanned_pfns=names.PAGEBLOCK_PAGES - sum(nr_pages - 1 for _, _, nr_pages in chunks))
        self.unlink(index)  # even if nothing was found (STALE)
        return sum(nr_pages for _, chunk_order, nr_pages in chunks if chunk_order >= order)

    def _claim_blocks(self, cpu: int, missing: int, mt: int, aflags: int) -> int:
        """Phase 1, P-34: whole blocks, owned from now on."""
        got, mode = 0, NORMAL
        while got < missing and self._gate_open(cpu):
            pfn, mode = self.zone_take(PB, mt, aflags, mode)
            if pfn is None:
                break
            self.own(self.block_index(pfn), cpu)
            self.pcp_put(cpu, pfn, PB, mt, mark=True, tail=True)
            self.count(phase1_pages=names.PAGEBLOCK_PAGES)
            got += names.PAGEBLOCK_PAGES
        return got

    def _gate_open(self, cpu: int) -> bool:
        """P-34, gate=fit: a block that does not fit under high would be drained again at once."""
        fits = self.pcps[cpu].count + names.PAGEBLOCK_PAGES <= self.pcps[cpu].high
        return self.policy.gate == "fit" and fits and not self.flags & names.ZONE_BELOW_HIGH

    def _take_chunks(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 2, P-35: the largest chunks that are not too large; no stealing, no ownership, no mark."""
        got = 0
        current = max(order, min(missing.bit_length() - 1, 8))
        while current >= order and got < missing:
            found = None
            if 1 << current <= missing - got or current == order:
                found = self._find_chunk(current, mt, aflags)
            if found is None:
                current -= 1
                continue
            chunk_type = self.chunks[found].type
            pfn = self.take_chunk(found, current)
            self.emit_zone_locked(pfn, current, chunk_type)
            self.emit("chunk", pfn, current)
            self.pcp_put(cpu, pfn, current, mt, mark=False, tail=True)
            self.count(phase2_pages=1 << current)
            got += 1 << current
        return got

    def _find_chunk(self, current: int, mt: int, aflags: int) -> int | None:
        """From the smallest sufficient order, type by type; the 50 % rule decides which is first (P-36)."""
        types = [mt]
        if self._cma_too(mt, aflags):
            types = [names.CMA, mt] if self.prefer_cma() else [mt, names.CMA]
        for chunk_type in types:
            for free_lists in self.free_area[current : self.policy.phase2_max + 1]:
                if free_lists[chunk_type]:
                    return free_lists[chunk_type].head
        return None

    def _take_runs(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> None:
        """Phase 3, P-37, and all of the baseline's refill (B-63): runs of the order asked for, by every means."""
        mode = NORMAL
        while missing > 0:
            pfn, mode = self.zone_take(order, mt, aflags, mode)
            if pfn is None:
                break
            self.pcp_put(cpu, pfn, order, mt, mark=False, tail=True)
            self.count(phase3_pages=1 << order)
            missing -= 1 << order
