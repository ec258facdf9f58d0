// What a machine's process may still ask of the kernel.
//
// The process begins with a wide fence: it can start no program, trace nobody, mount,
// load or reconfigure nothing, and of root's capabilities it keeps those that opening a
// disk or a tap interface may need, because a guest's reset opens them again. Each thread
// that serves the guest then puts up its own, narrow one, when all that it needs is open:
// the calls of system_calls.h, and no capability but what is said there.
//
// A call outside ends the process, with a message on standard error that names the thread
// and the call.
//
// Limits: threads of stores (a chain's commits, who connects to a server again) have the
// process's fence alone. An io_uring's requests are not system calls: of those a ring
// refuses nothing. A build with sanitizers has no fence, because their own calls would end
// it.
#pragma once

#include "base/result.h"
#include "vmm/sandbox/system_calls.h"

namespace tidepool::vmm {

// Once, before there are threads: the fence is theirs, too.
Result<> confine_process();
// The calling thread, for good; after confine_process().
Result<> confine_thread(ThreadKind kind);

}  // namespace tidepool::vmm
