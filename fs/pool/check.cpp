#include "fs/pool/check.h"

#include <algorithm>

#include "fs/pool/pool_impl.h"
#include "fs/pool/recovery.h"

namespace tidepool::pool {

Result<CheckReport> check_pool(blockdev::BlockStore& store, bool repair, const Sabotage& sabotage) {
  auto channel = blockdev::SyncChannel::open(store);
  if (!channel) return std::unexpected(channel.error());
  auto recovered = recover(**channel, store.name(), store.geometry().size, true, sabotage);
  if (!recovered) return std::unexpected(recovered.error());

  CheckReport report;
  report.findings = recovered->findings;
  report.losses = recovered->losses;
  report.journal_records = recovered->journal_records;
  PoolFigures figures = recovered->state->figures();
  report.vms = figures.vms;
  report.disks = figures.disks;
  report.extents = figures.extents;
  report.used_bytes = figures.used_bytes;
  auto stale = stale_free_runs(store, recovered->state->allocator());
  if (!stale) return std::unexpected(stale.error());
  for (const Run& run : *stale) report.leaked_bytes += run.count * block_size;

  if (!repair || report.findings.empty()) return report;
  // Free blocks may hold what was lost: it goes back to the host.
  recovered->superblock.clean = false;
  PoolOptions options;
  options.background = false;
  PoolImpl pool(std::shared_ptr<blockdev::BlockStore>(&store, [](auto*) {}), options,
                std::move(*channel), std::move(*recovered));
  // Opening writes the state as a fresh checkpoint, both superblocks and an empty
  // journal; closing marks it clean.
  if (auto r = pool.start(); !r) return std::unexpected(r.error());
  if (auto r = pool.stop(); !r) return std::unexpected(r.error());
  report.repaired.push_back("superblocks, checkpoint and journal were written anew");
  return report;
}

}  // namespace tidepool::pool
