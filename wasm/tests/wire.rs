//! Parameters in, rows out: what one side encodes the other decodes, and hostile bytes are errors.

use rapsqlite_engine::abi;
use rapsqlite_engine::error::{Error, Result};
use rapsqlite_engine::wire::params::{Params, Reader, Value};
use rapsqlite_engine::wire::rows::Encoder;

/// Numbers without pattern, the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn encoded(write: impl FnOnce(&mut Encoder) -> Result<()>) -> Vec<u8> {
    let mut encoder = Encoder::default();
    write(&mut encoder).expect("there is memory");
    encoder.bytes().to_vec()
}

fn read_one(bytes: &[u8]) -> Value<'_> {
    let mut reader = Reader::new(bytes);
    let value = reader.value().expect("it was encoded just now");
    assert!(reader.is_empty());
    value
}

/// Walks through `bytes` as every kind of request would; only panics and endless loops are failures.
fn walk(bytes: &[u8]) {
    if let Ok(Params::ByPosition { count, mut values }) = Params::of_request(bytes) {
        for _ in 0..count {
            values
                .value()
                .expect("the values were stepped over once already");
        }
    }
    if let Ok(Params::ByName { count, mut entries }) = Params::of_request(bytes) {
        for _ in 0..count {
            entries
                .text()
                .expect("the entries were stepped over once already");
            entries
                .value()
                .expect("the entries were stepped over once already");
        }
    }
    let mut sets = Reader::new(bytes);
    if let Ok(count) = sets.array() {
        for _ in 0..count {
            if sets.params().is_err() {
                break;
            }
        }
    }
}

#[test]
fn integers_at_every_width_come_back() {
    let mut edges = vec![0, i64::MIN, i64::MAX];
    for bits in 0..63 {
        let power = 1_i64 << bits;
        edges.extend([power - 1, power, power + 1, -power - 1, -power, 1 - power]);
    }
    for integer in edges {
        let bytes = encoded(|out| out.integer(integer));
        assert_eq!(read_one(&bytes), Value::Integer(integer));
    }
}

#[test]
fn floats_come_back_bit_by_bit() {
    for float in [
        0.0,
        -0.0,
        1.5,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        let bytes = encoded(|out| out.float(float));
        assert!(
            matches!(read_one(&bytes), Value::Float(back) if back.to_bits() == float.to_bits())
        );
    }
}

#[test]
fn text_and_blobs_of_every_length_class_come_back() {
    for len in [0, 1, 31, 32, 255, 256, 65_535, 65_536, 70_000] {
        let content = vec![b'x'; len];
        assert_eq!(
            read_one(&encoded(|out| out.text(&content))),
            Value::Text(&content)
        );
        assert_eq!(
            read_one(&encoded(|out| out.blob(&content))),
            Value::Blob(&content)
        );
        let extension = encoded(|out| out.extension(abi::EXT_UNSUPPORTED, &content));
        assert_eq!(read_one(&extension), Value::Unsupported(&content));
    }
}

#[test]
fn numbers_in_the_forms_only_a_host_writes_are_read() {
    assert_eq!(read_one(&[0xc0]), Value::Null);
    assert_eq!(read_one(&[0xc2]), Value::Integer(0));
    assert_eq!(read_one(&[0xc3]), Value::Integer(1));
    assert_eq!(read_one(&[0xca, 0x3f, 0xc0, 0, 0]), Value::Float(1.5));
    assert_eq!(read_one(&[0xd0, 0x80]), Value::Integer(-128));
    assert_eq!(read_one(&[0xd1, 0x80, 0]), Value::Integer(-32_768));
    assert_eq!(
        read_one(&[0xcf, 0x7f, 255, 255, 255, 255, 255, 255, 255]),
        Value::Integer(i64::MAX)
    );
    assert_eq!(
        read_one(&[0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        Value::TooLarge
    );
    assert_eq!(
        read_one(&[0xd4, abi::EXT_UNSUPPORTED as u8, b'T']),
        Value::Unsupported(b"T")
    );
}

#[test]
fn parameters_by_name_keep_their_order_and_values() {
    let bytes = encoded(|out| {
        out.map(20)?;
        for index in 0..20 {
            out.text(format!("name{index}").as_bytes())?;
            out.integer(index)?;
        }
        Ok(())
    });

    let Ok(Params::ByName {
        count: 20,
        mut entries,
    }) = Params::of_request(&bytes)
    else {
        panic!("a map is parameters by name");
    };

    for index in 0..20 {
        assert_eq!(entries.text(), Ok(format!("name{index}").as_bytes()));
        assert_eq!(entries.value(), Ok(Value::Integer(index)));
    }
}

#[test]
fn no_parameters_are_an_empty_array() {
    assert!(matches!(
        Params::of_request(&[]),
        Ok(Params::ByPosition { count: 0, .. })
    ));
}

#[test]
fn a_request_cut_short_is_an_error_at_every_length() {
    let bytes = encoded(|out| {
        out.array(6)?;
        out.integer(i64::MIN)?;
        out.float(0.5)?;
        out.text(&[b'x'; 40])?;
        out.blob(&[0; 300])?;
        out.extension(abi::EXT_UNSUPPORTED, b"Decimal")?;
        out.null()
    });
    assert!(Params::of_request(&bytes).is_ok());

    for len in 1..bytes.len() {
        assert!(
            Params::of_request(&bytes[..len]).is_err(),
            "{len} of {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn bytes_behind_the_parameters_are_an_error() {
    assert!(Params::of_request(&[0x90]).is_ok());
    assert!(Params::of_request(&[0x90, 0x90]).is_err());
}

#[test]
fn lengths_far_beyond_the_request_are_errors() {
    for marker in [0xdb, 0xc6, 0xdd, 0xdf, 0xc9] {
        assert!(
            Params::of_request(&[marker, 255, 255, 255, 255]).is_err(),
            "{marker:#x}"
        );
        assert!(
            Params::of_request(&[0x91, marker, 255, 255, 255, 255]).is_err(),
            "{marker:#x}"
        );
    }
}

#[test]
fn containers_and_unknown_types_are_no_values() {
    for bytes in [
        &[0x91, 0x90][..],
        &[0x91, 0x80],
        &[0x91, 0xc1],
        &[0x91, 0xd4, 9, 0],
        &[0x81, 1, 1],
    ] {
        let error = Params::of_request(bytes).expect_err("this is no parameter");
        assert_eq!(error.class, abi::ERROR_INTERNAL, "{bytes:?}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    for _ in 0..200_000 {
        let len = noise.next() as usize % 24;
        let bytes: Vec<u8> = (0..len).map(|_| noise.next() as u8).collect();
        walk(&bytes);
    }
}

#[test]
fn a_damaged_request_never_panics() {
    let good = encoded(|out| {
        out.array(3)?;
        for _ in 0..3 {
            out.array(3)?;
            out.text(b"some text that is longer than 32 bytes")?;
            out.blob(&[7; 260])?;
            out.integer(70_000)?;
        }
        Ok(())
    });
    for position in 0..good.len() {
        for value in [
            0x00, 0x7f, 0x80, 0x90, 0xc0, 0xc6, 0xc9, 0xdb, 0xdd, 0xdf, 0xff,
        ] {
            let mut bytes = good.clone();
            bytes[position] = value;
            walk(&bytes);
        }
    }
}

#[test]
fn an_error_is_the_array_of_the_contract() {
    let mut error = Error::limit(18, "too much").in_row(7);
    error.offset = 3;
    let bytes = encoded(|out| out.error(&error.shifted_by(10)));

    let mut reader = Reader::new(&bytes);

    assert_eq!(reader.array(), Ok(5));
    assert_eq!(
        (reader.integer(), reader.text()),
        (Ok(18), Ok(&b"too much"[..]))
    );
    assert_eq!(
        (reader.integer(), reader.integer(), reader.integer()),
        (Ok(13), Ok(5), Ok(7))
    );
}
