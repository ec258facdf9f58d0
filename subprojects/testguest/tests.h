// What the guest can be asked to do, by "test=NAME" on its command line. Each returns
// when it passed, or ends the machine itself.
#pragma once

void test_load();       // writes and reads back, until a key is pressed
void test_net();        // sends back what comes from the net, until the host says
void test_scsi();       // the same pattern by SCSI; what is not there, what is wrong
void test_scsi_lies();  // as test_lies(), of a SCSI adapter
void test_disk();       // pattern over the disk's start, read back; the host looks, too
void test_refused();    // a disk that is read-only says so for every write
void test_reboot();     // resets once, remembered on the disk
void test_fault();      // the processor gives up
void test_lies();       // a driver that breaks the rules, then one that does not
void test_hostile();    // random registers and chains; the device may break, no more
void test_echo();       // what is typed, until a line's end
void test_button();     // waits for the power button
void test_steps();      // counts in registers, memory and disk at once, until the power button
void test_dirty();      // writes to every third page of 8 MiB, over and over
void test_balloon();    // gives memory away and takes it back, as the host asks; reports some
