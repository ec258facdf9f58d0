#include "fs/tools/check_verb.h"

#include "fs/pool/check.h"
#include "fs/tools/open_pool.h"

namespace tidepool::tools {

Result<CheckVerdict> check_verb(const std::string& name, bool repair) {
  const auto store = open_offline_store(name, repair ? Access::change : Access::read);
  if (!store) return std::unexpected(store.error());
  const auto report = pool::check_pool(**store, repair);
  if (!report) return std::unexpected(report.error());
  const bool sound = report->losses.empty() && (report->findings.empty() || report->repaired);
  return CheckVerdict{{{"path", name},
                       {"findings", report->findings},
                       {"losses", report->losses},
                       {"repaired", report->repaired},
                       {"sound", sound}},
                      sound};
}

}  // namespace tidepool::tools
