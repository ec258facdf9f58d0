// Those who carry commands out, by family; the command table names them.
#pragma once

namespace tidepool::scsi {

class LogicalUnit;
struct Task;

using Handler = void(LogicalUnit& unit, Task& task);

// primary_commands.cpp
Handler handle_test_unit_ready, handle_request_sense, handle_inquiry, handle_mode_sense,
    handle_mode_select, handle_report_luns, handle_report_opcodes, handle_report_tmf;

// medium_commands.cpp
Handler handle_start_stop, handle_prevent_allow, handle_read_capacity_10, handle_read_capacity_16,
    handle_synchronize_cache, handle_pre_fetch, handle_read_defects;

// block_commands.cpp
Handler handle_read, handle_write, handle_write_verify, handle_verify;

// atomic_commands.cpp
Handler handle_compare_and_write, handle_or_write;

// provisioning_commands.cpp
Handler handle_unmap, handle_write_same, handle_get_lba_status;

// reservation_commands.cpp
Handler handle_reserve, handle_release, handle_persistent_in, handle_persistent_out;

// copy_commands.cpp
Handler handle_extended_copy, handle_copy_status, handle_copy_parameters;

// sanitize_commands.cpp
Handler handle_sanitize_overwrite, handle_sanitize_block_erase, handle_exit_failure_mode;

}  // namespace tidepool::scsi
