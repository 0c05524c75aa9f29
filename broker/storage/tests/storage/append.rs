//! Appending and reading.

use odradek_broker_storage::{LogConfig, Recovery};
use odradek_common::{LeaderEpoch, Offset};
use odradek_records::BatchHeader;

use crate::support::{Home, NOW, append, batch, offsets, read_all};

#[test]
fn records_get_consecutive_offsets_and_are_read_back_across_segments() {
    let home = Home::real();
    let config = LogConfig { segment_bytes: 4000, index_interval_bytes: 100, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    for n in 0..100 {
        let info = append(&mut log, &batch(3, 20, NOW)).expect("appended");
        assert_eq!((info.first_offset, info.last_offset), (Offset(3 * n), Offset(3 * n + 2)));
    }
    assert!(log.segment_count() > 3);
    for from in [0, 1, 57, 150, 299, 300] {
        assert_eq!(offsets(&read_all(&log, Offset(from))), (from..300).collect::<Vec<_>>());
    }
    let slice = log.read(Offset(4), 10, log.log_end(), true).expect("readable");
    let header = BatchHeader::parse(&log.load(&slice).expect("loaded")).expect("a batch");
    assert_eq!((header.base_offset, header.leader_epoch), (Offset(3), LeaderEpoch(0)));
    log.close(NOW).expect("closed");
    drop(log);
    for recovery in
        [Recovery { recovery_point: Offset(300), ..Recovery::NEW }, Recovery { clean: false, ..Recovery::NEW }]
    {
        let log = home.open(&config, recovery);
        assert_eq!(log.log_end(), Offset(300));
        assert_eq!(offsets(&read_all(&log, Offset(0))), (0..300).collect::<Vec<_>>());
    }
}
