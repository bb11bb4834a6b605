# The machine: virtual CPUs, locks and programs, as records.
#
# A virtual CPU carries out its program: calls of the allocator, time in which it computes, and waiting for
# other CPUs. All state that survives a suspension is in these records.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from .cache cimport Caches, Toucher
from .call cimport Call
from .contig cimport Contig
from .node cimport NodeRef
from .page cimport Counts, Zone, idx
from .replay cimport Request


cdef enum:  # instructions: workload/program.py
    I_END = 0
    I_ALLOC = 1
    I_BULK = 2
    I_FREE = 3
    I_THINK = 4
    I_WAIT_LEAST = 5
    I_WAIT_MOST = 6
    I_WAIT_FREE = 7
    I_GOTO = 8
    I_REPEAT = 9
    I_CHANCE = 10
    I_BARRIER = 11
    I_LOCK = 12
    I_UNLOCK = 13
    I_MOVE = 14
    I_MEASURE = 15
    I_WORK = 16
    I_RECLAIM = 17
    I_DRAIN = 18
    I_TICK = 19
    I_REPLAY = 20
    I_STOP = 21
    I_OFFLINE = 22
    I_ONLINE = 23
    I_CMA_ALLOC = 24
    I_CMA_RELEASE = 25
    I_OFFLINE_MEMORY = 26
    I_ONLINE_MEMORY = 27
    NR_INSTRUCTIONS = 28

    I_FAULT = 1                # flags
    I_ZERO = 2
    I_BATCH = 4
    I_IRQ = 8
    I_A_PER_CPU = 16
    I_C_PER_CPU = 32
    I_A_PER_PAIR = 64

    NEWEST = 0                 # how: which entry of a queue
    OLDEST = 1
    RANDOM = 2

cdef packed struct Instruction:    # program.INSTRUCTION
    uint8_t op
    uint8_t order
    uint8_t how
    uint8_t flags
    uint32_t a
    uint32_t b
    uint32_t c
    uint32_t gfp
    uint32_t pad
    int64_t ps
    int64_t ps2
    double x

cdef enum:  # what a context does at its next event
    P_FETCH = 0                # the next instruction
    P_MORE = 1                 # the next request of the same instruction
    P_ACT = 2                  # the pending lock action of its call
    P_GRANTED = 3              # the lock that it waited for is its own now
    P_USER_GRANTED = 4         # the same, a lock of the program's
    P_OVER = 5                 # its call is over
    P_ASLEEP = 6               # nothing, until another CPU wakes it

cdef enum:  # where a CPU's time goes
    T_USER = 0
    T_ALLOCATOR = 1
    T_ZONE_WAIT = 2
    T_PCP_WAIT = 3
    T_USER_WAIT = 4
    T_SLEEP = 5
    T_INTERRUPT = 6
    T_DONE = 7
    NR_TIMES = 8

cdef enum:  # what a CPU waits for
    S_NO = 0
    S_LEAST = 1
    S_MOST = 2
    S_FREE = 3
    S_BARRIER = 4
    S_HANDLE = 5
    S_QUIET = 6                # that another CPU makes no call, to take it off-line
    S_OFFLINE = 7
    S_DONE = 8
    S_AREA = 9                 # that another CPU's cma_alloc is over

cdef enum:  # kinds of calls, for their times
    C_ALLOC = 0
    C_FREE = 1
    C_BATCH = 2
    C_BULK = 3
    C_TICK = 4
    C_DRAIN = 5
    C_OTHER = 6
    C_CONTIG = 7               # of a cma_alloc, or memory that goes off-line: all its calls, and the time between
    NR_CALLS = 8

cdef enum:  # kinds of sections
    K_KINDS = 5
    K_ALLOC = 0                # of a PCP lock. Of a zone lock: page.H_REFILL and so on
    K_FREE_LOCAL = 1
    K_FREE_REMOTE = 2
    K_DRAIN_LOCAL = 3
    K_DRAIN_REMOTE = 4

    OCTAVE = 32                # histogram bins per octave
    BINS = OCTAVE * 40
    BATCH = 31                 # folio batch (B-91)
    MOST_BULK = 4096           # pages of one bulk call; a larger instruction makes several

cdef enum:  # rows of the log
    L_STEP = 0                 # the call goes on; bits: got, or the answer to a move
    L_ALLOC = 1                # a call begins. bits: order
    L_FREE = 2                 # bits: flags of the operation
    L_BATCH = 3                # one row a page; nr: pages from here on
    L_BULK = 4
    L_TICK = 5
    L_DRAIN = 6
    L_RUN = 7
    L_ISOLATE = 8
    L_UNISOLATE = 9
    L_OFFLINE = 10             # nr: which CPU
    L_CMA_ALLOC = 11           # nr: pages, bits: order of alignment
    L_CMA_RELEASE = 12
    L_OFFLINE_MEMORY = 13
    L_ONLINE_MEMORY = 14
    L_ONLINE = 16              # what takes no lock
    L_MOVABLE = 17
    L_SPLIT = 18
    L_RECLAIM = 19             # bits: active
    L_FOLD = 20

cdef struct Stat:              # of one kind of section
    uint64_t count
    uint64_t waited            # had to wait
    uint64_t failed            # trylocks that failed
    int64_t wait_ps
    int64_t wait_max_ps
    int64_t hold_ps
    int64_t hold_max_ps
    uint64_t wait_hist[1280]
    uint64_t hold_hist[1280]

cdef struct Lock:              # queued: first come, first served
    int32_t holder             # CPU + 1; 0: free
    int32_t last               # CPU whose cache has the line, + 1
    int32_t head               # first waiting CPU + 1
    int32_t tail
    int32_t kind               # of the holder's section
    int64_t since_ps           # of the hold; -1: it is being handed over
    int64_t asked_ps           # when the holder asked for it
    Stat *stats

cdef struct Context:           # of a CPU: its task, or an interrupt on top of it
    int64_t until_ps           # the next event
    int phase                  # P_
    int action                 # lock action that comes next
    uint32_t zone              # of the operation
    bint zone_held             # the zone lock is held or waited for: no interrupts
    bint in_call
    int kind                   # of the call; C_
    int64_t call_from_ps
    int64_t wait_from_ps
    Instruction *program
    uint32_t pc
    uint32_t left              # of this instruction's requests
    int nr_pages               # of the batch
    bint ticking               # the call is a tick, which came between
    idx *pages
    Call *call                 # under way: record, or that of a contiguous allocation
    Call record
    uint32_t counter[8]
    int turn                   # of a call for each zone: the next
    uint32_t tick_zone
    int resume_phase
    int64_t resume_ps          # ticking: what until_ps was
    int64_t tick_from_ps

cdef struct Cpu:
    int level                  # 1: in interrupt context
    int node
    int waits                  # for this lock + 1
    int next_waiter            # in a lock's queue, CPU + 1
    int next_sleeper           # of a queue of pages, CPU + 1: an interrupt may wait for a lock meanwhile
    int sleeps                 # S_: what it waits for
    int category               # T_: where its time goes
    int64_t since_ps           # in this category
    int64_t spent_ps[8]
    int64_t outside_ps         # its next tick or interrupt
    int64_t next_tick_ps
    int64_t next_irq_ps
    int64_t irq_from_ps
    int64_t sleep_from_ps
    uint64_t wants             # of the queue; the handle
    int user_locks             # of the program's that its task holds
    int wake_phase             # where it goes on when it wakes
    bint offline
    uint64_t random
    uint64_t work
    uint64_t cursor            # in its stream of a recording
    Context context[2]

cdef struct ContigRun:         # of a CPU's task
    Contig contig
    Call call
    bint on
    int64_t from_ps

cdef struct Queue:             # of allocated pages: zone << 32 | page
    uint64_t *entry            # a ring
    uint64_t mask
    uint64_t first
    uint64_t nr
    int32_t sleepers           # first CPU that waits for its length, + 1
    uint64_t least             # the smallest length that one of them waits for; none: all ones
    int64_t most               # the largest that one of them waits to fall to; none: -1

cdef struct LogRow:            # L_: calls, their steps, and what else changes a zone, in the order in which it happened
    uint32_t slot              # 2 * CPU + level
    uint16_t what
    uint16_t bits
    uint32_t zone
    uint32_t gfp
    uint32_t nr
    uint32_t pfn

cdef struct HoldRow:           # of a lock by a CPU, as run/locks.py reads it; a row when it ends
    int64_t asked_ps
    int64_t from_ps            # asked_ps: it did not wait. -1: it waits still
    int64_t to_ps
    uint32_t lock              # its place in Sim.lock
    uint16_t cpu
    uint8_t kind               # K_, or page.H_
    uint8_t bits               # 1: in an interrupt, 2: it was not over when the run was

cdef struct Sample:            # of one zone at one time
    int64_t t_ps
    int64_t zone
    int64_t nr_free[11]
    int64_t free_pages
    int64_t parked_pages
    int64_t cma_free
    int64_t allocated_pages
    int64_t owned_blocks
    int64_t zone_wait_ps
    int64_t zone_holds
    int64_t allocs

cdef struct Charge:            # ps
    int64_t lock
    int64_t line_near
    int64_t line_far
    int64_t hand_near
    int64_t hand_far
    int64_t entry
    int64_t list_op
    int64_t move
    int64_t merge
    int64_t split
    int64_t scan
    int64_t visit
    int64_t walk
    int64_t alloc
    int64_t free
    int64_t page
    int64_t push
    int64_t fault
    int64_t zero
    int64_t interrupt
    int64_t wake

cdef struct Sim:
    int cpus
    int nr_zones
    int nr_nodes
    int nr_queues
    int nr_barriers
    int nr_user_locks
    int nr_handles
    int first_leaf             # of the tree
    int64_t now_ps
    int64_t start_ps           # of the measured part
    int64_t stop_ps            # -1: not stopped yet
    int64_t tick_ps
    int64_t sample_ps
    int64_t next_sample_ps
    int64_t irq_mean_ps
    uint64_t events
    uint64_t requests
    uint64_t failed
    uint64_t stalls
    int64_t stall_ps
    int awake                  # CPUs that are neither done nor asleep nor waiting for a lock
    int nr_done
    int nr_free_sleepers
    int nr_handle_sleepers
    int nr_quiet_sleepers
    int hotplug                # the CPU that takes another off-line, + 1
    uint64_t idle_steps        # instructions since the last that took time
    int64_t program_ps         # of the last instruction of a task
    int trouble                # 0, or why the run cannot go on
    int trouble_cpu
    Charge charge
    Cpu *cpu
    uint64_t *tree             # of all CPUs' next events: clock.schedule
    Lock *lock                 # of each zone: its CPUs' PCPs, then its own; then the program's
    Stat *zone_stats           # [zone][kind]
    Stat *pcp_stats
    Stat *user_stats
    Zone zone[40]
    NodeRef node[8]
    uint32_t drain_mutex       # one drain of everything at a time (B-100)
    Caches caches[40]
    Toucher toucher
    Queue *queue
    int32_t *barrier           # CPUs that are at it
    Instruction *irq_program
    int64_t allocated[40]      # pages that callers hold, per zone
    ContigRun *contig          # of each CPU
    int32_t area_mutex[40]     # CPU whose cma_alloc is under way in the zone's area, + 1
    bint homes                 # some program moves pages, so home is kept
    uint64_t *home[40]         # of each page: its queue + 1 << 40 | slot; 0: no queue has it
    uint64_t *call_hist        # [C_][BINS]
    uint64_t *call_count
    int64_t *call_ps
    int64_t *call_max_ps
    void *saved_stats          # of the measured part, while calls under way come to their end
    int64_t *saved_spent
    Counts *saved_counts
    int64_t *worked            # [zone][CPU]: its counters as time
    uint16_t *cpu_node
    idx *pages                 # of batches and bulks, most_pages for each context
    int most_pages
    bint finished
    Request *request           # a recording's, sorted by CPU
    int64_t *think_ps
    uint64_t *first_request    # of each CPU, and of one more
    uint32_t *handle           # page of the recording -> own pfn + H_BIAS
    int32_t *free_sleeper      # CPUs that wait for a node's free pages
    LogRow *log
    uint64_t nr_log
    uint64_t room_log
    HoldRow *holds             # NULL: nobody asked for them
    uint64_t nr_holds
    uint64_t room_holds
    uint64_t holds_left_out    # for want of room
    Sample *sample
    uint64_t nr_samples
    uint64_t room_samples
