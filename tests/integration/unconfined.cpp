// In the place of leanvm's confinement, in a leanvm for tests alone: no fence. What a test
// of the fence sees with this one is what it would see if there were none.
#include "vmm/sandbox/confinement.h"

namespace tidepool::vmm {

Result<> confine_process() { return {}; }
Result<> confine_thread(ThreadKind) { return {}; }

}  // namespace tidepool::vmm
