// Choosing a model: one that is there, one from Files, one to download.

import SwiftUI
import UniformTypeIdentifiers

struct ModelsView: View {
    @ObservedObject var library: Library
    @Environment(\.scenePhase) private var phase
    @State private var address = ""
    @State private var picking = false

    var body: some View {
        List {
            Section("On this device") {
                ForEach(library.models, id: \.self) { model in
                    Button(model.lastPathComponent) { library.open(model) }
                }
                Button("Choose a file…") { picking = true }
            }
            Section {
                TextField("https://…/model.hotset", text: $address)
                    .keyboardType(.URL)
                    .textInputAutocapitalization(.never)
                    .autocorrectionDisabled()
                Button("Download") { library.download(address) }
                    .disabled(address.isEmpty)
            } header: {
                Text("From an address")
            } footer: {
                Text("A download that was interrupted goes on where it stopped.")
            }
            if let work = library.work {
                Section {
                    ProgressView(work.title, value: work.fraction)
                    Button("Stop", role: .cancel, action: library.cancel)
                }
            }
        }
        .navigationTitle("Models")
        .refreshable { library.refresh() }
        .fileImporter(isPresented: $picking, allowedContentTypes: [UTType(exportedAs: "dev.hotset.bundle")]) { result in
            switch result {
            case .success(let url): library.pick(url)
            case .failure(let error): library.problem = error.localizedDescription
            }
        }
        .alert("That did not work", isPresented: $library.problem.isPresent) {
        } message: {
            Text(library.problem ?? "")
        }
        .onChange(of: phase) { phase in
            if phase == .active { library.refresh() }
        }
    }
}

extension Optional {
    /// Whether there is something; setting it to false takes that away.
    var isPresent: Bool {
        get { self != nil }
        set { if !newValue { self = nil } }
    }
}
