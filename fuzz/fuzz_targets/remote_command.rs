#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kube_pet_stream::fuzzing::remote_command(bytes));
