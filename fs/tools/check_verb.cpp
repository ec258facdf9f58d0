#include "fs/tools/check_verb.h"

#include <sys/stat.h>

#include "fs/pool/check.h"
#include "fs/tools/open_pool.h"

namespace tidepool::tools {

Result<CheckVerdict> check_verb(const std::string& name, bool repair) {
  const auto store = open_offline_store(name, repair ? Access::change : Access::read);
  if (!store) return std::unexpected(store.error());
  const auto report = pool::check_pool(**store, repair);
  if (!report) return std::unexpected(report.error());
  const bool faultless = report->findings.empty() || !report->repaired.empty();
  const bool sound = faultless && report->losses.empty();
  CheckVerdict verdict{{{"path", name},
                        {"findings", report->findings},
                        {"losses", report->losses},
                        {"repaired", report->repaired},
                        {"vm_count", report->vms},
                        {"disk_count", report->disks},
                        {"extent_count", report->extents},
                        {"used_bytes", report->used_bytes},
                        {"journal_records", report->journal_records},
                        {"sound", sound}},
                       sound};
  // A device always holds all of itself: only of a file this says something.
  struct stat status {};
  if (::fstat((*store)->fd(), &status) == 0 && S_ISREG(status.st_mode))
    verdict.report["leaked_bytes"] = report->leaked_bytes;
  return verdict;
}

}  // namespace tidepool::tools
